"""The formulas that objectives share."""
