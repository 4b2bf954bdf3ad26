"""The lab: a company in a box, made of containers that run systemd."""
