"""The page of `guideflow app`: pick, drop, draw, run and look, in a browser on this machine."""
