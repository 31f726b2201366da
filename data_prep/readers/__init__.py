"""Tables and labels."""
