"""The samples of an audit by rank, and what people say of them."""
