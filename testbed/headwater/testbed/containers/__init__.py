"""The testbed of containers: what `docker-compose.yml` needs before anything starts."""
