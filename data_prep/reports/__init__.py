"""Reports: sections, mentions, negation, location."""
