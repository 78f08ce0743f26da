"""Where patches lie at each magnification; parents and children.

The patches of the lowest magnification tile the slide from its top-left corner, and those with
tissue are kept. Every patch is cut into whole children, and so on down to the sharpest.
"""
