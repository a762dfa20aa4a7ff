"""A segmentation as files and pictures, and image files as photos; one file per format."""
