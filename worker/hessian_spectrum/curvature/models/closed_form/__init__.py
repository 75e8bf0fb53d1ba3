"""Networks whose Hessian has a formula; names and order of their parameters are those of the formula."""
