"""Tasks: where prompts come from and how a response is judged, exactly, as correct or not."""
