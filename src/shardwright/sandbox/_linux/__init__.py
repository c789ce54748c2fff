"""Linux mechanisms that several backends share: control groups, /proc, pidfds, prctl. Pure Python and ctypes."""
