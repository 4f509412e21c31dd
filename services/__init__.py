"""Floor 2, online: what answers requests. Never imports `pipelines`."""
