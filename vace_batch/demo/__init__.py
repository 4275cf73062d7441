"""The demo: six short clips made on the spot, and the contact sheet that shows what became of them."""
