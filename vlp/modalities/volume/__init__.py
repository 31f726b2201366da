"""Volumes (CT, MR): files to voxels in one orientation, and these to a model's input. Order of axes: z, y, x = [D, H, W]."""
