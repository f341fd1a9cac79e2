"""The ground on which the tests stand: servers, drivers, a counting proxy, a live web server, cancellation."""
