"""What a task's section of the page is drawn with: cards, rows with intervals, charts, pictures, and how scores are written."""
