"""One module per command, and what they share: options, and what is printed or written."""
