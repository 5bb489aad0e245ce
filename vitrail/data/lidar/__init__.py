"""Lidar scans: files, what the gate says of them, range images, neighbours, and made-up streets.

`projection` lays points on a range image, `near` finds neighbours and carries labels from pixels
back to points, `reading` and `folder` know files, `gate` what is wrong with them, `split` the
parts, `cast` makes synthetic scans.
"""
