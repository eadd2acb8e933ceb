# A perl parent waits for a command that sleeps, with its output in a pipe.

import os

os.execvp("perl", ["perl", "-e", '$| = 1; open(my $from, "-|", "sleep 1000"); print "ready\\n"; my $line = <$from>;'])
