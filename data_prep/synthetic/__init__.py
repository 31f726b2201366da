"""The synthetic radiograph: anatomy, rendering, report."""
