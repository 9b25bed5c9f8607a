"""How do results look in a browser? Pages of one file each, which ask nothing of the network and run no script but ours."""
