"""Maps over an image: patch similarity, saliency, masks."""
