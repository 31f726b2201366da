"""Images: stored files, DICOM, contact sheets."""
