"""A step of the loop: draw groups, judge them, look their advantages up; and measure on held-out prompts."""
