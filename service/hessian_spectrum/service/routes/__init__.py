"""One module per part of the HTTP contract; handlers translate, decisions are made elsewhere."""
