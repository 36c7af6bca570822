"""What learns when, at which rate: plans as data, and the code that makes a model obey them."""
