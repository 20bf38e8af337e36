"""What is measured of a pack on held-out data: one file per suite, each returning plain numbers."""
