"""vLLM in this process (`local`), behind a URL (`server`), and an extension of its worker (`worker`)."""
