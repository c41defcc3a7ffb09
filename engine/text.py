"""Numbers of things, as people say them."""


def counted(number: int, what: str) -> str:
    """ "1 song", "2 songs" """
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
