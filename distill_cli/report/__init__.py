"""Tables, pages and cards: reads run folders only. Torch-free."""
