"""What orders and jobs share: the platform's files, results, requests and secrets."""
