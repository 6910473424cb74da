"""vLLM in this process (`local`), behind a URL (`server`), and what its worker learns to do (`worker`)."""
