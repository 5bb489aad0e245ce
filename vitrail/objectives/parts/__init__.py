"""What several objectives without labels share: views, corruptions, masks, heads, teachers."""
