"""Predict the class of slides: one slide in `slide`, many into a folder in `folder`."""
