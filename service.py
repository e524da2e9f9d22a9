"""Where the container starts: the service for orders."""

from service.order import main

if __name__ == "__main__":
    main()
