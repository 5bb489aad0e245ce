"""What several tests share: goldens, pictures, a small network, scattered weights."""
