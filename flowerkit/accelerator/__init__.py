"""accelerator."""
