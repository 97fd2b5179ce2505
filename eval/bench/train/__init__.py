"""What training brings, on data that was held back."""
