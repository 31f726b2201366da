"""What a task's section of the page is drawn with: cards, rows with intervals, charts, images, and how scores are written."""
