"""The task families: classification, retrieval, grounding."""
