"""What a model answers under many active sets, the paper's figures from it, and pictures of them."""
