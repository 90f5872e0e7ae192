"""The bundled digit classifier, whose features measure samples of the digits offline."""
