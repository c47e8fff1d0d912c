"""A gateway: the server in front of any model, which records each call of an agent written elsewhere.

messages.py   a message as items of a trajectory, and when two messages are the same one
recorder.py   one session: requests and replies become pieces of a trajectory; token ids are put back
sessions.py   which session a request belongs to, and the files on disk
recording.py  the Model that records in front of a Model
app.py        session names in headers and paths; the app
"""
