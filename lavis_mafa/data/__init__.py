"""Records of images and captions: identity, annotation files, tables, images and data sets."""
