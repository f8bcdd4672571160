"""How good an explanation is: pure functions of maps, boxes and models; one number an image.

Averages come last, from `statistics`, so that every number can be traced to its image.
"""
