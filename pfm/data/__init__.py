"""From a name, a folder or a hub to stored inputs and their labels; decoding that training and service share."""
