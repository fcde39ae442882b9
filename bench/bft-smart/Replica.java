import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.ByteBuffer;
import java.nio.channels.FileChannel;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;

import bftsmart.tom.MessageContext;
import bftsmart.tom.ServiceReplica;
import bftsmart.tom.server.defaultservices.DefaultRecoverable;

/**
 * A replica that keeps what is ordered in a file, synced once a batch before anybody is
 * answered, and answers each request with how many there were.
 *
 * <pre>java Replica NUMBER FILE</pre> with BFT-SMaRt's configuration in {@code config/}.
 */
public final class Replica extends DefaultRecoverable {
    private final FileChannel file;
    private long ordered;

    private Replica(Path path) throws IOException {
        file = FileChannel.open(path, StandardOpenOption.CREATE, StandardOpenOption.WRITE, StandardOpenOption.APPEND);
    }

    public static void main(String[] arguments) throws IOException {
        Replica replica = new Replica(Path.of(arguments[1]));
        new ServiceReplica(Integer.parseInt(arguments[0]), replica, replica);
    }

    @Override
    public byte[][] appExecuteBatch(byte[][] requests, MessageContext[] contexts, boolean fromConsensus) {
        int bytes = 0;
        for (byte[] request : requests) {
            bytes += Integer.BYTES + request.length;
        }
        ByteBuffer batch = ByteBuffer.allocate(bytes);
        for (byte[] request : requests) {
            batch.putInt(request.length).put(request);
        }
        batch.flip();
        try {
            while (batch.hasRemaining()) {
                file.write(batch);
            }
            file.force(false);
        } catch (IOException failure) {
            throw new UncheckedIOException(failure);
        }
        byte[][] answers = new byte[requests.length][];
        for (int at = 0; at < requests.length; at++) {
            answers[at] = ByteBuffer.allocate(Long.BYTES).putLong(++ordered).array();
        }
        return answers;
    }

    @Override
    public byte[] appExecuteUnordered(byte[] request, MessageContext context) {
        return getSnapshot();
    }

    @Override
    public byte[] getSnapshot() {
        return ByteBuffer.allocate(Long.BYTES).putLong(ordered).array();
    }

    @Override
    public void installSnapshot(byte[] state) {
        ordered = ByteBuffer.wrap(state).getLong();
    }
}
