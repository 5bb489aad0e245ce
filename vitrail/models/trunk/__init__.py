"""What all families share: backbones, variants, and moving weights to other sizes."""
