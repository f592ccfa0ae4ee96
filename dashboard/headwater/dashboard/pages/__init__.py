"""Law: pages put what was worked out into the browser, and decide nothing but where it stands."""
