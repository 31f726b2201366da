"""Sets of words, written as they are easiest to read: with blanks between them."""


def words(text: str) -> frozenset[str]:
    """Return the words of a text: what stands between blanks."""
    return frozenset(text.split())
