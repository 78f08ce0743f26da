"""The file formats: tiled TIFF read directly, formats read by OpenSlide, images read by Pillow."""
