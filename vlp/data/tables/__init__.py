"""Tables of others: files to rows (`read`), cells to values (`cells`, `labels`, `boxes`), rows to images (`keys`)."""
