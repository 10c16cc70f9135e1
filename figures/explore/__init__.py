"""A page to play with the theory: what is asked, its answer in numbers, and the page that shows it."""
