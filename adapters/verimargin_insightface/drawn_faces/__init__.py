"""Drawn faces of many people, and a small training on them, for `verimargin demo faces`.

A person is a set of proportions, colours and a hair style (people); an image adds pose, expression, light, what covers
the face, and the camera (photographs). Both are functions of a seed and of numbers.
"""
