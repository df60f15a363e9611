"""Who carries out the update itself: a command, Docker Compose, Swarm; and who takes instances out meanwhile."""
